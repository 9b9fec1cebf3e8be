// Bundles src/ into swiftai_nb/static/ (or the folder given as the first argument).
import { build } from "esbuild";

const outdir = process.argv[2] ?? "../swiftai_nb/static";

await build({
  entryPoints: { widget: "src/index.ts" },
  outdir,
  bundle: true,
  minify: true,
  charset: "utf8",
  format: "esm",
  target: "es2022",
  legalComments: "none",
});

await build({
  entryPoints: { widget: "src/style.css" },
  outdir,
  bundle: true,
  minify: true,
  charset: "utf8",
  target: ["chrome111", "firefox113", "safari16.4"],
});
