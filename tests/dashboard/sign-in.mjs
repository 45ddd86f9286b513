// A server where one has to sign in: a form, a session in a cookie, a stream through it, and out again.

import path from "node:path";
import { answerOf, assert, begin, copied, isAccessible, isWell, until } from "./harness.mjs";

const TOKEN = "the-administrators-token";

export default async function run(server, screenshots) {
  const tools = await begin(server);
  const api = (method, at, body) => tools.api(method, at, body, { authorization: `Bearer ${TOKEN}` });
  await api("PUT", "/v1/topics/orders", { partitions: 1 });
  const page = await tools.open("#/records/orders?live=1");
  const token = page.getByLabel("Token");
  await token.waitFor();
  await page.screenshot({ path: path.join(screenshots, "sign-in-light.png"), fullPage: true });
  await isAccessible(page, "sign in");
  assert.equal(await page.getByText("Open to all.").count(), 0);
  await token.fill("not-the-token");
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.getByText("This token is not valid here.").waitFor();
  await token.fill(TOKEN);
  await page.keyboard.press("Enter");
  // It goes on where it was asked to.
  await page.getByText("Live: waiting for records.").waitFor();
  await until(page, "a stream", () => tools.proxy.streams === 1);
  await api("POST", "/v1/topics/orders/records", { records: [{ key: "seen", value: 1 }] });
  await page.getByText("seen").waitFor();
  const cookies = await page.context().cookies();
  assert.ok(cookies.length === 1 && cookies[0].httpOnly && !cookies[0].value.includes(TOKEN), JSON.stringify(cookies));
  assert.ok(!page.url().includes(TOKEN));
  await page.reload();
  await page.getByText("Live: waiting for records.").waitFor();
  // A command names the token by a variable, and works where that is set.
  await page.goto(`${tools.base}#/topics/orders`);
  const command = await copied(page, page.getByRole("button", { name: "Copy as curl" }));
  assert.ok(command.includes("$QUIPU_TOKEN") && !command.includes(TOKEN), command);
  assert.equal((await answerOf(command, { QUIPU_TOKEN: TOKEN })).name, "orders");
  assert.equal((await answerOf(command, { QUIPU_TOKEN: "not-the-token" })).code, "unauthenticated");
  // Who has signed out hears nothing more.
  await page.goto(`${tools.base}#/records/orders?live=1`);
  await page.getByText("Live: waiting for records.").waitFor();
  await page.getByRole("button", { name: "Sign out" }).click();
  await token.waitFor();
  await until(page, "no stream", () => tools.proxy.streams === 0);
  // Whoever follows a link meanwhile is asked to sign in there.
  for (const view of ["Topics", "Groups"]) {
    await page.getByRole("navigation").getByRole("link", { name: view }).click();
    await until(page, "another address", () => page.url().endsWith(`#/${view.toLowerCase()}`));
    await token.waitFor();
    isWell(page);
  }
  // To whom nothing is shown, an empty list does not mean an empty server.
  const { token: writer } = await api("POST", "/v1/tokens", { name: "writer", rules: [{ allow: ["write"], topics: ["orders"] }] });
  await page.goto(tools.base);
  await token.fill(writer);
  await page.keyboard.press("Enter");
  await page.getByText("There is no topic that you may see.").waitFor();
  await page.getByText("No group that you may see has read anything yet.").waitFor();
  assert.equal(await page.getByRole("button", { name: "Create" }).count(), 0);
  await page.getByRole("button", { name: "Sign out" }).click();
  await token.waitFor();
  // A browser may present a certificate that has no rules: a token still signs in.
  const me = (url) => url.pathname.endsWith("/v1/me");
  await page.route(me, (route) => route.fulfill({ status: 403, contentType: "application/problem+json", body: JSON.stringify({ status: 403, code: "forbidden", detail: "no rules are for this identity" }) }));
  await page.reload();
  await page.getByText("no rules are for this identity").waitFor();
  await page.unroute(me);
  await token.fill(TOKEN);
  await page.keyboard.press("Enter");
  await page.getByRole("link", { name: "orders", exact: true }).waitFor();
  isWell(page);
  await tools.close();
}
