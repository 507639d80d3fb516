/** The report's section of rationales beside what else the model says. */
import { mkdtempSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "tap";
import { page } from "../src/report/page.js";
import { type RationaleExample, rationaleSection } from "../src/report/rationales.js";
import { browser, layOut, photograph } from "./fixtures/browser.js";

const example = (i: number): RationaleExample => ({
  question:
    i === 0 ? "Which <river> & hill crosses Vienna?" : `Which river crosses the town that question ${i} asks for?`,
  expected: ["Danube", "Donau"],
  reasoning: "Vienna lies in the east of Austria, and the largest river of the country flows through it.",
  answer: i === 2 ? null : i % 2 ? "Rhine" : "Danube",
  right: i % 2 === 0,
  rationale:
    i === 3
      ? null
      : 'I mix up "Vienna" and Graz <script>alert(1)</script>, and only some of what I know of rivers is about Austria.',
  confidence: i === 4 ? null : i / 10,
  clusters: [
    { response: `The Rhine. ${"It is very long. ".repeat(40)}`, size: 3 },
    { response: "The Danube flows through Vienna. Answer: Danube.", size: 9 },
    ...Array.from({ length: 6 }, (_, k) => ({
      response: k === 5 ? "x".repeat(200) : `One of its own, ${k}.`,
      size: 1,
    })),
  ],
});
const examples = Array.from({ length: 12 }, (_, i) => example(i));
const section = rationaleSection(examples);

test("ten of them, the largest cluster first, and text stays text", (t) => {
  t.equal(section.match(/<article/g)!.length, 10);
  t.notMatch(section, "<script>");
  t.match(section, "Which &lt;river&gt; &amp; hill crosses Vienna?");
  t.match(section, "&lt;script&gt;alert(1)&lt;/script&gt;");
  const [first] = section.split("</article>");
  t.match(first!, /Of 18 samples<\/h4><ol class="clusters"><li><b>50\u00a0%<\/b>.*The Danube flows/);
  t.ok(first!.indexOf("The Danube flows") < first!.indexOf("The Rhine. It is very"), "the largest first");
  t.equal(first!.match(/<li>/g)!.length, 6);
  t.match(first!, "And 2 responses in 2 more.");
  t.match(
    first!,
    /It is very long\. It is very\u00a0\u2026|long\.\u00a0\u2026|is\u00a0\u2026|It\u00a0\u2026|very\u00a0\u2026/,
  );
  t.match(section, /<strong>Rhine<\/strong> <span class="v-worse">\(wrong: Danube \/ Donau\)/);
  for (const told of ["No answer that can be read", "No rationale.", "No confidence that can be read.", "9 of 10"])
    t.match(section, told);
  t.equal(rationaleSection([]), "");
  t.equal(rationaleSection(examples, 2).match(/<article/g)!.length, 2);
  t.end();
});

test("in a browser nothing overflows", { skip: browser ? false : "no Chromium on the PATH" }, async (t) => {
  const folder = mkdtempSync(join(tmpdir(), "credence-rationales-"));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  const html = page("Rationales", [section]);
  for (const { width, scroll } of layOut(folder, html, [360, 768, 1280]))
    t.ok(scroll <= width, `${width}: the page is ${scroll} wide`);
  t.ok(statSync(photograph(folder, html)).size > 100_000, "a picture with something on it");
});
