"use strict";
// Draws the charts of the page, with their legends' buttons and one tooltip for all. `vegaEmbed` is in the script before.
const tip = document.getElementById("tip");

function showTip(handler, event, item, value) {
  tip.hidden = value === null || value === undefined || value === "";
  if (tip.hidden) return;
  tip.replaceChildren();
  if (typeof value === "object") {
    const list = document.createElement("dl");
    for (const [name, text] of Object.entries(value)) {
      if (text === "undefined" || text === undefined || text === null || text === "" || text === "NaN") continue;
      list.append(Object.assign(document.createElement("dt"), { textContent: name }),
                  Object.assign(document.createElement("dd"), { textContent: text }));
    }
    tip.append(list);
  } else {
    tip.textContent = value;
  }
  const gap = 14, box = tip.getBoundingClientRect();
  const left = event.clientX + gap + box.width > innerWidth ? event.clientX - gap - box.width : event.clientX + gap;
  const top = event.clientY + gap + box.height > innerHeight ? event.clientY - gap - box.height : event.clientY + gap;
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${Math.max(4, top)}px`;
}

function legend(figure, view) {
  const buttons = [...figure.querySelectorAll(".legend button")];
  for (const button of buttons) {
    button.addEventListener("click", () => {
      const picked = button.getAttribute("aria-pressed") !== "true";
      for (const one of buttons) one.setAttribute("aria-pressed", String(picked && one === button));
      view.signal("picked", picked ? button.dataset.series : null).runAsync();
    });
  }
}

const specs = JSON.parse(document.getElementById("specs").textContent);
document.querySelectorAll("figure[data-chart]").forEach(async (figure) => {
  const container = figure.querySelector(".chart");
  const options = { mode: "vega", renderer: "svg", actions: false, defaultStyle: false, tooltip: showTip };
  const { view } = await vegaEmbed(container, specs[figure.dataset.chart], options);
  legend(figure, view);
  new ResizeObserver(() => dispatchEvent(new Event("resize"))).observe(container);
});
addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hidden = true; });
