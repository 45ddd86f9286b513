// The start page: how far every group is behind, and the topics.

import { at, get } from "./api.js";
import { el, keep, link, put, table } from "./dom.js";
import { firstSteps } from "./first.js";
import { lagColumns, loadSparks, noGroups } from "./lag.js";
import { noTopics, topicColumns } from "./topics.js";

const SHOWN = 20;

export function overview(context) {
  context.title("Overview");
  const sparks = new Map();
  const lags = table("Groups, the furthest behind first", lagColumns(sparks), ({ group }) => group);
  const names = table("Topics, the busiest first", topicColumns(), ({ name }) => name);
  const moreGroups = el("p", { class: "more" });
  const moreTopics = el("p", { class: "more" });
  const first = el("div");
  const groupSection = el("section", { "aria-label": "Lag" }, el("h2", {}, "Lag"), lags.element, moreGroups);
  const topicSection = el("section", { "aria-label": "Topics" }, el("h2", {}, "Topics"), names.element, moreTopics);
  context.main.append(first, groupSection, topicSection);

  let furthest = null;
  const draw = () => furthest && lags.update(furthest, noGroups(context));
  context.live(groupSection, async (signal) => {
    const { groups, next } = await get(at("v1", "lag"), { sort: "lag", limit: SHOWN }, { signal });
    furthest = groups;
    draw();
    keep(moreGroups, next ? link("All groups", ["groups"]) : null);
  }, 2000, "list of lags that is sorted");
  context.live(el("div"), (signal) => loadSparks(sparks, signal, draw), 10000);

  context.live(topicSection, async (signal) => {
    const { topics, next } = await get(at("v1", "topics"), { sort: "rate", limit: SHOWN, config: "false" }, { signal });
    names.update(topics, noTopics(context));
    keep(moreTopics, next ? link("All topics", ["topics"]) : null);
    const isEmpty = topics.length === 0 && context.seesAll("topics");
    if (isEmpty && !first.hasChildNodes()) first.append(firstSteps());
    if (!isEmpty) put(first);
    groupSection.hidden = topicSection.hidden = isEmpty;
  }, 3000, "list of topics with sizes and rates");
}
