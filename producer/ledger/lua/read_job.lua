-- The fields of a job, by their length before they are loaded.
-- KEYS  1 RQ hash          ARGV  1 bytes that it may have, then the fields' names
-- Returns {bytes, {values}}; no values where it is too large; nothing where there is no such hash.
if redis.call('TYPE', KEYS[1]).ok ~= 'hash' then return false end
return {fields_within(tonumber(ARGV[1]), KEYS[1], {unpack(ARGV, 2)})}
