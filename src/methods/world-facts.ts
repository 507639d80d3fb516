/**
 * Questions with known answers about the countries of the world: capital, continent, currency, language, and from the
 * capital back to the country. Facts from the world-countries package (Open Database License; see NOTICE).
 */
import { createRequire } from "node:module";
import type { Country } from "world-countries";
import { elicalReferenceSplit, type Split } from "../data/splits.js";
import { hasAnswer } from "../evaluation/match.js";

export type WorldFactKind = "capital" | "continent" | "currency" | "language" | "country";

export interface WorldFact {
  /** The country's code and the kind, e.g. "KEN-capital". */
  id: string;
  question: string;
  /** Every wording that counts as right. */
  answer: string[];
  /** The country's code: a split keeps a country on one side. */
  group: string;
  kind: WorldFactKind;
}

/**
 * The questions in the package's order of countries.
 *
 * @param options.keepGiven keep those whose answer stands in the question ("What is the capital of Singapore?"):
 *   1,235 in all, as in the references; without them 1,199
 */
export function worldFacts({ keepGiven = false } = {}): WorldFact[] {
  const countries = createRequire(import.meta.url)("world-countries") as Country[];
  const facts = countries.flatMap(factsOf);
  return keepGiven ? facts : facts.filter((fact) => !hasAnswer(fact.answer, fact.question));
}

/** The split of the EliCal reference: places in `worldFacts({ keepGiven: true })`, in the order it trains and tests. */
export function referenceSplit(): Split {
  return elicalReferenceSplit(worldFacts({ keepGiven: true }));
}

function factsOf(country: Country): WorldFact[] {
  const name = country.name.common;
  const facts: WorldFact[] = [];
  const add = (kind: WorldFactKind, question: string, wordings: string[]): void => {
    const answer = [...new Set(wordings)].filter((wording) => wording !== "");
    if (answer.length > 0) facts.push({ id: `${country.cca3}-${kind}`, question, answer, group: country.cca3, kind });
  };
  const capitals = country.capital ?? [];
  add("capital", `What is the capital of ${name}?`, capitals.flatMap(capitalNames));
  add("continent", `On which continent or region is ${name}?`, continentNames(country));
  add("currency", `What is the currency of ${name}?`, Object.entries(country.currencies ?? {}).flatMap(currencyNames));
  add(
    "language",
    `What is an official language of ${name}?`,
    Object.values(country.languages ?? {}).flatMap(languageNames),
  );
  if (capitals[0] !== undefined) {
    // Codes among the spellings ("KE", "DRC") are no answers.
    const spellings = country.altSpellings.filter((spelling) => [...spelling].length > 3);
    add("country", `Which country has ${capitals[0]} as its capital?`, [name, country.name.official, ...spellings]);
  }
  return facts;
}

const capitalNames = (capital: string): string[] => [
  capital,
  capital.replaceAll("St.", "Saint"),
  capital.replaceAll(", D.C.", ""),
  capital.endsWith(" City") ? capital.replaceAll(" City", "") : capital,
];

function continentNames({ region, subregion }: Country): string[] {
  switch (region) {
    case "Americas": {
      const part =
        subregion === "South America" ? ["South America"] : ["North America", "Central America", "Caribbean"];
      return [...part, "Americas", "Latin America"];
    }
    case "Oceania":
      return ["Oceania", "Pacific", "Australia", "Australasia", subregion];
    case "Antarctic":
      return ["Antarctica", "Antarctic"];
    case "Asia":
      return subregion === "Western Asia" ? ["Asia", "Middle East"] : ["Asia"];
    default:
      return [region];
  }
}

function currencyNames([code, { name }]: [string, { name: string }]): string[] {
  const names = [name, code];
  if (name.startsWith("United States")) names.push("US dollar", "U.S. dollar", "American dollar");
  if (name.includes("CFA")) names.push("CFA franc");
  if (code === "GBP") names.push("pound sterling", "sterling");
  if (code === "CNY") names.push("yuan", "renminbi");
  return names;
}

/** "Norwegian (Bokmål)" is also either of its parts. */
const languageNames = (language: string): string[] => [language, ...language.split(/[()]/).map((part) => part.trim())];
