-- Somebody waits for these jobs, or has come back to them: those that end where nobody does go on for as long again.
-- KEYS  1.. RQ hash of each job
-- Nothing is written to a job that is gone, or that does not depend on it.
local now = now_ms()
for _, job in ipairs(KEYS) do
  local lease_ms = tonumber(fields_of(job, 'lease_ms')[1] or '')
  if lease_ms then redis.call('HSET', job, 'wanted_until_ms', now + lease_ms, 'lapsed_at_ms', '') end
end
