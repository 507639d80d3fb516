/** What it is worth to look things up where a model is not sure, as RAG.ipynb has it. */
import type { Argv } from "yargs";
import { type ConqordCompat, conqordRows } from "../../methods/conqord/compat.js";
import type { Unparsed } from "../../methods/conqord/files.js";
import { note, print, printJson, table, UsageError } from "../output.js";
import { type PublishedScript, publishedOptions } from "../published.js";
import { tellUnread, unparsedOption } from "./places.js";

/** The published notebook has no flags: its files stand in its cells. */
export const script: PublishedScript = { name: "retrieval", honoured: {}, unneeded: {}, dead: {}, rows: conqordRows };

export const command = "retrieval <without> <with>";
export const describe = "Mean rating where evidence is looked up below a confidence, from ratings without and with it";
export const builder = (line: Argv) =>
  line
    .positional("without", { type: "string", demandOption: true, describe: "Ratings of answers without evidence" })
    .positional("with", { type: "string", demandOption: true, describe: "Ratings of answers with evidence" })
    .options({
      ...publishedOptions(script),
      mode: { type: "string", default: "", describe: "With topk in it two answers were asked for; the first counts" },
      thresholds: {
        type: "string",
        default: "0,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,1",
        requiresArg: true,
        describe: "Confidences below which evidence is looked up",
        coerce: thresholdList,
      },
      plot: { type: "string", requiresArg: true, describe: "Where a figure goes (SVG)" },
      csv: { type: "string", requiresArg: true, describe: "Where the table goes" },
      ...unparsedOption,
    });

function thresholdList(text: string): number[] {
  const values = text.split(",").map((part) => (part.trim() === "" ? Number.NaN : Number(part)));
  if (values.some((value) => !(value >= 0 && value <= 1)))
    throw new UsageError(`--thresholds ${text}: expected numbers from 0 to 1 with commas between`);
  return [...new Set(values)].sort((a, b) => a - b);
}

interface RetrievalArguments {
  without: string;
  with: string;
  mode: string;
  thresholds: number[];
  plot?: string;
  csv?: string;
  unparsed: Unparsed;
  compat: ConqordCompat;
  json: boolean;
}

const columns = ["threshold", "adaptive", "looked up", "sure", "without", "with", "unsure", "without", "with"] as const;

export async function handler(args: RetrievalArguments): Promise<void> {
  const { readRetrieval, retrievalCsv, retrievalFigure, retrievalSweep } = await import(
    "../../methods/conqord/retrieval.js"
  );
  const { writeFileAtomic } = await import("../../files.js");
  const { askedFor } = await import("../../methods/conqord/prompts.js");
  const { compat, unparsed, thresholds } = args;
  const asked = askedFor("nq", args.mode);
  const { rows, ...unread } = await readRetrieval(args, { compat, unparsed, asked });
  tellUnread(unread, "answers without evidence");
  const points = retrievalSweep(rows, thresholds);
  if (args.plot !== undefined) {
    writeFileAtomic(args.plot, retrievalFigure(points, rows));
    note(`drawn in ${args.plot}`);
  }
  if (args.csv !== undefined) {
    writeFileAtomic(args.csv, retrievalCsv(points));
    note(`the table is in ${args.csv}`);
  }
  if (args.json) printJson({ questions: rows.length, ...unread, points });
  else
    print(
      table([
        [...columns],
        ...points.map(({ threshold, adaptive, retrieved, sure, unsure }) => [
          threshold,
          shown(adaptive),
          shown(retrieved),
          sure.questions,
          shown(sure.without),
          shown(sure.with),
          unsure.questions,
          shown(unsure.without),
          shown(unsure.with),
        ]),
      ]),
    );
}

const shown = (value: number | null): string => (value === null ? "-" : value.toFixed(4));
