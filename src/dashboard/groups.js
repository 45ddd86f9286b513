// All groups with their lag.

import { at, get } from "./api.js";
import { el } from "./dom.js";
import { lagColumns, loadSparks, noGroups } from "./lag.js";
import { pagedList } from "./list.js";

export function groups(context) {
  context.title("Groups");
  const sparks = new Map();
  const list = pagedList(context, {
    caption: "Groups with their lag",
    columns: lagColumns(sparks),
    keyOf: ({ group }) => group,
    sorts: [["lag", "lag"], ["lag_ms", "time behind"], ["expires_ms", "expiry"], ["name", "name"]],
    sort: "lag",
    load: async ({ q, sort, after, limit }, signal) => {
      const page = await get(at("v1", "lag"), { q, sort: sort === "name" ? "" : sort, after, limit }, { signal });
      return { items: page.groups, next: page.next };
    },
    nothing: `${noGroups(context)} A group is made by its first poll or commit.`,
    what: "list of lags that is sorted or filtered",
  });
  const past = el("div");
  context.main.append(past, list.element);
  context.live(past, (signal) => loadSparks(sparks, signal, list.draw), 10000);
}
