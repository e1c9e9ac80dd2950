// Only the photo reader, as a module that a test in a real browser can load: tests/web/test_pixels.py.

import { defineConfig } from "vite";

export default defineConfig({
  publicDir: false,
  build: { lib: { entry: "src/photo.ts", formats: ["es"], fileName: "photo" }, emptyOutDir: true },
});
