// npm run quickstart [-- --set path=value ...]: from a bare clone to a model that says how sure it is.
import { foreground, setUp } from "./setup.mjs";

await setUp();
process.exitCode = await foreground(process.execPath, [
  "dist/cli/bin.js",
  "run",
  "elical/quickstart",
  "--run-dir",
  "runs/quickstart",
  ...process.argv.slice(2),
]);
