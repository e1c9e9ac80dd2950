"use strict";
// The slider of explain.html: shows one step of the head, from the numbers in the page.
const steps = JSON.parse(document.getElementById("steps").textContent);
const slider = document.getElementById("slider");

function show() {
  const step = Number(slider.value);
  document.getElementById("step").textContent = String(step);
  for (const [start, rows] of Object.entries(steps)) {
    const row = rows[step];
    document.getElementById(`loss-${start}`).textContent = row.loss;
    document.getElementById(`probability-${start}`).textContent = row.probability;
    document.getElementById(`decision-${start}`).textContent = row.decision;
    document.getElementById(`bar-${start}`).style.width = `${100 * row.share}%`;
  }
  slider.setAttribute("aria-valuetext", `step ${step}, loss ${steps.empty[step].loss} from an empty head`);
}

document.getElementById("player").hidden = false;
slider.addEventListener("input", show);
show();
