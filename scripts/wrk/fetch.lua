-- GETs of given offsets in turn. Arguments: the value of Accept, the query after the offset, then the offsets.
-- Prints the same line as produce.lua.

local requests = {}
local count = 0
local next_request = 0

function init(args)
  local headers = { ["Accept"] = args[1] }
  local token = os.getenv("QUIPU_TOKEN")
  if token and token ~= "" then
    headers["Authorization"] = "Bearer " .. token
  end
  for n = 3, #args do
    requests[count] = wrk.format("GET", wrk.path .. "?offset=" .. args[n] .. args[2], headers)
    count = count + 1
  end
end

function request()
  next_request = (next_request + 1) % count
  return requests[next_request]
end

function done(summary, latency, _)
  local e = summary.errors
  print(string.format("RESULT %d %d %d %d %d %d", summary.requests, summary.duration, summary.bytes,
    e.connect + e.read + e.write + e.status + e.timeout, latency:percentile(50), latency:percentile(99)))
end
