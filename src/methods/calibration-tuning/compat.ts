/** Where calibration-tuning's published code does otherwise than it should, or than its paper says, and what is done here. */
import type { Compat } from "../published.js";

type CalibrationId = `A9-${number}`;

/** Rows of the published code that are asked for. */
export type CalibrationCompat = Compat<CalibrationId>;
