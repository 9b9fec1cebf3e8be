// Bundles both entries of src/ into swiftai_nb/static/ (or the folder given as the first argument).
import { build } from "esbuild";

const outdir = process.argv[2] ?? "../swiftai_nb/static";
const common = { outdir, bundle: true, minify: true, charset: "utf8" };

await build({
  ...common,
  entryPoints: { widget: "src/widget/index.ts", cell: "src/cell/index.ts" },
  format: "esm",
  target: "es2022",
  legalComments: "none",
});

await build({
  ...common,
  entryPoints: { widget: "src/widget/style.css", cell: "src/cell/style.css" },
  target: ["chrome111", "firefox113", "safari16.4"],
});
