// Runs one script against a server: node run.mjs SCRIPT SERVER SCREENSHOTS.

const [script, server, screenshots] = process.argv.slice(2);
const { default: run } = await import(`./${script}.mjs`);
try {
  await run(server, screenshots);
  process.exit(0);
} catch (error) {
  console.error(error.stack ?? error);
  process.exit(1);
}
