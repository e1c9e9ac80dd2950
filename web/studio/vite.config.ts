import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig } from "vite";

export default defineConfig({
  root: import.meta.dirname,
  base: "./",
  publicDir: "public",
  plugins: [svelte({ configFile: false })],
  build: { outDir: "../../src/catflap/studio/static", emptyOutDir: true, target: "es2022", modulePreload: false },
});
