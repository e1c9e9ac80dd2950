// Catflap Studio: the page. See docs/guides/studio.md.
import "../../../src/catflap/tokens.css";
import "./style.css";
import { mount } from "svelte";
import App from "./App.svelte";

mount(App, { target: document.getElementById("app") as HTMLElement });
