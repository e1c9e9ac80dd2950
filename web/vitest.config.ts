import { defineConfig } from "vitest/config";
import { assembly } from "./assembly.ts";

export default defineConfig({ plugins: [assembly()], test: { include: ["test/*.test.ts"] } });
