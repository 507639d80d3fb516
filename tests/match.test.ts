import { readFileSync } from "node:fs";
import { test } from "tap";
import { agreeF1, hasAnswer, norm } from "../src/evaluation/match.js";

interface Case {
  x: string;
  y: string;
  question: string;
  answers: string[];
  norm: string[];
  has_answer: boolean;
  agree_f1: number;
}

test("words, answers and agreement are the reference's, for odd strings too", async (t) => {
  const path = new URL("golden/metrics/match.json", import.meta.url);
  const cases = JSON.parse(readFileSync(path, "utf8")) as Case[];
  t.ok(cases.length >= 100);
  t.ok(cases.some((c) => c.has_answer) && cases.some((c) => !c.has_answer), "both verdicts occur");
  t.ok(new Set(cases.map((c) => c.agree_f1)).size > 10, "graded agreements occur");
  const wrong = cases.filter(
    (c) =>
      norm(c.x).join("\n") !== c.norm.join("\n") ||
      hasAnswer(c.answers, c.y) !== c.has_answer ||
      !(Math.abs(agreeF1(c.x, c.y, c.question) - c.agree_f1) < 1e-12),
  );
  t.same(wrong, []);
});

test("what a reader would expect", async (t) => {
  t.same(norm("The capital, of São Tomé!"), ["capital", "of", "sao", "tome"]);
  t.ok(hasAnswer(["Rhône"], "It is the RHONE river."));
  t.notOk(hasAnswer(["Rhône"], "It is the Rhones river."), "whole words only");
  t.notOk(hasAnswer(["", "the"], "anything"), "an answer without words is in no text");
  t.notOk(hasAnswer([], "anything"));
  t.equal(agreeF1("The capital of Kenya is Nairobi.", "Nairobi", "What is the capital of Kenya?"), 1);
  t.equal(agreeF1("Nairobi", "Mombasa", "What is the capital of Kenya?"), 0);
  t.equal(agreeF1("Kenya", "the capital of Kenya", "What is the capital of Kenya?"), 1, "nothing left on either side");
});
