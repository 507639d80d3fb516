// npm run build: TypeScript to dist/, the engine to build/Release/credence.node; only what changed.
import { setUp } from "./setup.mjs";

await setUp({ tests: process.argv.includes("--tests") });
