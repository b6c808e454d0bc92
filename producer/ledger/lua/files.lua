-- Prepended, behind the guards, to the scripts that know of files: what an owner's take, and for how long.
--
-- The files of an owner stand in a sorted set, by the ms on Redis' clock until which they are kept; their sizes in a
-- hash, and the sum of them under ''. Redis drops a file's own keys by itself at that time.

local function forget_size(sizes, file_id)
  local size = tonumber(redis.call('HGET', sizes, file_id) or 0)
  if redis.call('HDEL', sizes, file_id) == 1 then redis.call('HINCRBY', sizes, '', -size) end
end

-- Those whose time is over: they count no more.
local function forget_files(files, sizes)
  local now = now_ms()
  for _, file_id in ipairs(redis.call('ZRANGEBYSCORE', files, '-inf', now)) do forget_size(sizes, file_id) end
  redis.call('ZREMRANGEBYSCORE', files, '-inf', now)
end

-- What is known of a file, and of its owner's, goes with it.
-- names: the owner's files, their sizes, the file, its parts
local function keep_file(names, ttl)
  for place, name in ipairs({names[3], names[4], names[1], names[2]}) do
    if place <= 2 or redis.call('PTTL', name) < ttl then redis.call('PEXPIRE', name, ttl) end
  end
end
