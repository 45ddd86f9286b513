-- Readers that continue where the last answer ended, each on its own connection and partition: run as many threads
-- as connections. Arguments: the partitions. Prints the same line as produce.lua.

local token = os.getenv("QUIPU_TOKEN")
if token and token ~= "" then
  wrk.headers["Authorization"] = "Bearer " .. token
end

local threads = 0

function setup(thread)
  thread:set("thread_number", threads)
  threads = threads + 1
end

local path
local offset = "0"

function init(args)
  path = string.format("%s/%d/records?max_records=500&offset=", wrk.path, thread_number % args[1])
end

function request()
  return wrk.format("GET", path .. offset)
end

function response(status, headers, _)
  -- Header names come as they were sent.
  offset = status == 200 and (headers["next-offset"] or headers["Next-Offset"]) or offset
end

function done(summary, latency, _)
  local e = summary.errors
  print(string.format("RESULT %d %d %d %d %d %d", summary.requests, summary.duration, summary.bytes,
    e.connect + e.read + e.write + e.status + e.timeout, latency:percentile(50), latency:percentile(99)))
end
