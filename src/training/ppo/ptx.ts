/**
 * A share of language modelling beside reinforcement, so that what the policy could do before is not lost (PPO-ptx, Ouyang et
 * al. 2022): each optimiser step has a pack of rows of its own. Which one follows from the seed and from how many were had.
 */
import type { RecordFile } from "../../data/readers.js";
import type { Model } from "../../policy/model.js";
import type { Message } from "../../text/chat.js";
import { type Progress, silent } from "../../tracking/progress.js";
import { conversations, type Pack, packs, type SftData, type SftState, start, surveyed } from "../sft-data.js";
import type { PpoSettings } from "./settings.js";

/** Packs of rows, one after the other, epoch after epoch without an end. */
export class PtxRows {
  private readonly source: AsyncGenerator<Pack, void, undefined>;

  private constructor(
    data: SftData,
    private standing: SftState,
  ) {
    this.source = packs(data, standing.position);
  }

  /**
   * Goes through all the records once where a run begins, so that what is wrong with them is told before anything is learnt.
   *
   * @throws CredenceError "ROW_TOO_LONG", "NOTHING_SUPERVISED" or "DOUBLED_BOS" with counts
   */
  static async open(
    model: Model,
    records: RecordFile<{ messages: Message[] }>,
    settings: NonNullable<PpoSettings["ptx"]>,
    {
      seed,
      from,
      signal,
      progress = silent,
    }: { seed: number; from?: SftState; signal?: AbortSignal; progress?: Progress },
  ): Promise<PtxRows> {
    // Reading within an iteration is not aborted: nothing stops one that learns.
    const data = conversations(model, records, settings, { seed, epochs: Number.POSITIVE_INFINITY });
    const standing = from ?? { position: start, data: await surveyed(progress, { ...data, signal }) };
    return new PtxRows(data, standing);
  }

  async next(): Promise<Pack> {
    const { value } = await this.source.next();
    const pack = value as Pack; // there is always another epoch, and each has a row that counts
    this.standing = { ...this.standing, position: pack.position };
    return pack;
  }

  state(): SftState {
    return this.standing;
  }

  async close(): Promise<void> {
    await this.source.return();
  }
}
