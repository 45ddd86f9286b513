-- Members of groups that poll and acknowledge, each on a connection of its own: run with as many threads as connections.
-- Arguments: the prefix of the groups' names, members in each group, the topic. Prints the same line as produce.lua.

local threads = 0

function setup(thread)
  thread:set("thread_number", threads)
  threads = threads + 1
end

local path, headers, ack
local topic

function init(args)
  local group = math.floor(thread_number / args[2])
  path = string.format("/v1/groups/%s-%d/members/m%d/poll", args[1], group, thread_number)
  headers = { ["Content-Type"] = "application/json" }
  local token = os.getenv("QUIPU_TOKEN")
  if token and token ~= "" then
    headers["Authorization"] = "Bearer " .. token
  end
  topic = args[3]
  ack = "null"
end

function request()
  local body = '{"ack":' .. ack .. ',"topics":["' .. topic .. '"],"max_records":500,"wait_ms":0}'
  return wrk.format("POST", path, headers, body)
end

function response(_, _, body)
  local id = string.match(body, '"poll_id":"([^"]+)"')
  if id then
    ack = '"' .. id .. '"'
  end
end

function done(summary, latency, _)
  local e = summary.errors
  print(string.format("RESULT %d %d %d %d %d %d", summary.requests, summary.duration, summary.bytes,
    e.connect + e.read + e.write + e.status + e.timeout, latency:percentile(50), latency:percentile(99)))
end
