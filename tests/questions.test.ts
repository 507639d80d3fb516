import { createHash } from "node:crypto";
import t from "tap";
import { questionSchema } from "../src/data/records.js";
import {
  crossValidationParts,
  elicalReferenceLabels,
  foldsByGroup,
  labelOrder,
  splitByGroup,
} from "../src/data/splits.js";
import { norm } from "../src/evaluation/match.js";
import { referenceSplit, type WorldFact, worldFacts } from "../src/methods/world-facts.js";

const digest = (value: unknown) => createHash("sha256").update(JSON.stringify(value)).digest("hex");
const columns = (facts: WorldFact[]) => facts.map((f) => [f.group, f.kind, f.question, f.answer]);

// Digests are of what the EliCal reference makes of the same package, written as Python's json.dumps writes it.
t.test("all questions are the reference's", async (t) => {
  const all = worldFacts({ keepGiven: true });
  t.equal(all.length, 1235);
  t.equal(digest(columns(all)), "20c6be4e5d19622557915d5fc56589ee1285455a0a710951a3d8c9e10617aedc");
  t.equal(new Set(all.map((f) => f.id)).size, all.length);
  for (const fact of all) t.ok(questionSchema.safeParse(fact).success, fact.id);
});

t.test("the references' splits, folds and labels", async (t) => {
  const all = worldFacts({ keepGiven: true });
  const { train, test } = referenceSplit();
  t.same([train.length, test.length], [869, 366]);
  t.equal(
    digest(columns(train.map((i) => all[i]!))),
    "d4d423bd3c85d928655d4ff385569cd4359726575c0a8d97c5d3510fa987492d",
  );
  t.equal(
    digest(columns(test.map((i) => all[i]!))),
    "a64b500ab6f8858ff86fe5af0b0533593809fe076d838423b4a2f87c1c3e0042",
  );
  t.same(elicalReferenceLabels(train.length, 8, 2), [551, 691, 246, 517, 527, 350, 188, 553]);
  // The probe reference numbers the rows as the other's generation left them: training rows, then test rows.
  const folds = foldsByGroup([...train, ...test].map((i) => all[i]!));
  t.equal(digest(folds.map((f) => f.test)), "8ca324fc116a3e7da83547e5237c50eaadfde58db552b466a89d74ba099bd5f0");
  t.same(
    folds.map((f, i) => labelOrder(f.train, 3, i).slice(0, 5)),
    [
      [394, 1002, 123, 828, 805],
      [988, 986, 343, 606, 998],
      [654, 988, 488, 1059, 725],
      [1182, 473, 576, 1158, 622],
      [588, 1133, 1087, 904, 399],
    ],
  );
  const labelled = labelOrder(folds[0]!.train, 3, 0).slice(0, 30);
  t.same(
    crossValidationParts(labelled, 3)
      .flat()
      .toSorted((a, b) => a - b),
    labelled.toSorted((a, b) => a - b),
  );
});

t.test("a question does not give its answer away", async (t) => {
  const facts = worldFacts();
  t.equal(facts.length, 1199);
  const kept = new Set(facts.map((f) => f.id));
  for (const id of ["SGP-capital", "SGP-country", "MEX-capital", "STP-capital", "GUF-language"])
    t.notOk(kept.has(id), id);
  for (const id of ["KEN-capital", "SGP-currency", "AND-capital", "NER-country"]) t.ok(kept.has(id), id);
  for (const { question, answer } of facts) {
    const asked = ` ${norm(question).join(" ")} `;
    t.notOk(
      answer.some((a) => norm(a).length > 0 && asked.includes(` ${norm(a).join(" ")} `)),
      question,
    );
  }
});

t.test("aliases", async (t) => {
  const answers = (id: string) => worldFacts({ keepGiven: true }).find((f) => f.id === id)!.answer;
  t.ok(answers("USA-capital").includes("Washington D.C."));
  t.ok(answers("CHN-currency").includes("renminbi"));
  t.ok(answers("GBR-currency").includes("sterling"));
  t.ok(answers("BEN-currency").includes("CFA franc"));
  t.ok(answers("JOR-continent").includes("Middle East"));
  t.notOk(answers("KEN-country").includes("KE"));
});

t.test("a country is on one side", async (t) => {
  const facts = worldFacts();
  const { train, test } = splitByGroup(facts, { testShare: 0.3, seed: 0 });
  const trained = new Set(train.map((i) => facts[i]!.group));
  t.notOk(test.some((i) => trained.has(facts[i]!.group)));
});
