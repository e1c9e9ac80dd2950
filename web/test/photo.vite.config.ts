// Only the photo reader, as a module that a test in a real browser can load: tests/web/test_pixels.py.

import { defineConfig } from "vite";
import { assembly } from "../assembly.ts";

export default defineConfig({
  plugins: [assembly()],
  publicDir: false,
  build: { lib: { entry: "src/photo.ts", formats: ["es"], fileName: "photo" }, emptyOutDir: true },
});
