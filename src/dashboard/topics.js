// All topics with rates and sizes.

import { at, get } from "./api.js";
import { button, el, link } from "./dom.js";
import { createTopic } from "./first.js";
import { ago, byteRate, bytes, count, rate } from "./format.js";
import { number } from "./lag.js";
import { pagedList } from "./list.js";

/// The columns of a table of topics. What a server does not say is a dash.
export function topicColumns() {
  return [
    { name: "Topic", class: "name-cell", cell: ({ name, damaged }) => [link(name, ["topics", name]), damaged ? el("span", { class: "chip losing" }, "damaged") : null] },
    { name: "Partitions", class: "num", cell: ({ partition_count: partitions }) => count(partitions) },
    { name: "Records", class: "num", cell: ({ records }) => number(records) },
    { name: "Size", class: "num", cell: ({ size_bytes: size }) => bytes(size) },
    { name: "Written", class: "num", cell: ({ produce_rate: pace }) => rate(pace) },
    { name: "Bytes in", class: "num", title: "Bytes written", cell: ({ produce_bytes_rate: pace }) => byteRate(pace) },
    { name: "Bytes out", class: "num", title: "Bytes read", cell: ({ fetch_bytes_rate: pace }) => byteRate(pace) },
    { name: "Groups", class: "num", cell: ({ groups }) => count(Array.isArray(groups) ? groups.length : groups) },
    { name: "Newest", title: "The timestamp of the newest record", cell: ({ last_timestamp: time }) => (time === null || time === undefined ? "–" : ago(time)) },
    { name: "", class: "links", cell: ({ name }) => link("Browse", ["records", name], {}, { "aria-label": `Browse records of ${name}` }) },
  ];
}

/// What stands in the place of a list of topics that is empty.
export function noTopics(context) {
  return context.seesAll("topics") ? "There is no topic yet." : "There is no topic that you may see.";
}

export function topics(context) {
  context.title("Topics");
  const list = pagedList(context, {
    caption: "Topics with their sizes and rates",
    columns: topicColumns(),
    keyOf: ({ name }) => name,
    sorts: [["name", "name"], ["size", "size"], ["rate", "rate"]],
    sort: "name",
    load: async ({ q, sort, after, limit }, signal) => {
      const page = await get(at("v1", "topics"), { q, sort: sort === "name" ? "" : sort, after, limit, config: "false" }, { signal });
      return { items: page.topics, next: page.next };
    },
    nothing: noTopics(context),
    what: "list of topics that is sorted or filtered",
  });
  context.main.append(el("div", { class: "actions" }, button("Create a topic", () => createTopic())), list.element);
}
