-- One JSON event a request, keys in turn over a set large enough to meet every partition of a thousand.
-- The requests are made before the clock starts, so that every server is driven at the same cost.
-- Prints one line for scripts/bench: "RESULT requests microseconds bytes failures p50 p99" (latencies in microseconds).

local KEYS = 8192
local requests = {}
local next_request = 0

local threads = 0

function setup(thread)
  thread:set("thread_number", threads)
  threads = threads + 1
end

function init(_)
  local headers = { ["Content-Type"] = "application/json" }
  local token = os.getenv("QUIPU_TOKEN")
  if token and token ~= "" then
    headers["Authorization"] = "Bearer " .. token
  end
  -- Of so many requests one is in a trace; 0: none.
  local traced = tonumber(os.getenv("TRACED") or "0")
  for n = 0, KEYS - 1 do
    local is_traced = traced > 0 and n % traced == 0
    headers["traceparent"] = is_traced and string.format("00-%032x-00f067aa0ba902b7-01", n + 1) or nil
    -- An odd step scatters the keys: neighbours in time are not neighbours in name.
    local key = string.format("N%05d", (n * 2731) % KEYS)
    local body = '{"records":[{"key":"' .. key .. '","value":{"event":"FlightDeparted","carrier":"UA","flight":15450}}]}'
    requests[n] = wrk.format("POST", wrk.path, headers, body)
  end
  -- The threads share no state; each begins at a place of its own.
  next_request = (thread_number * 977) % KEYS
end

function request()
  next_request = (next_request + 1) % KEYS
  return requests[next_request]
end

function done(summary, latency, _)
  local e = summary.errors
  print(string.format("RESULT %d %d %d %d %d %d", summary.requests, summary.duration, summary.bytes,
    e.connect + e.read + e.write + e.status + e.timeout, latency:percentile(50), latency:percentile(99)))
end
