#!/usr/bin/env node
import { main } from "./main.js";

// A reader that leaves early (`credence ... | head`) is no failure of ours.
process.stdout.on("error", (error: NodeJS.ErrnoException) => process.exit(error.code === "EPIPE" ? 0 : 1));
process.exitCode = await main(process.argv.slice(2));
