-- Id of a stream's last entry, and not the entry itself, which may be of any size.
-- KEYS  1 events
return (last_event(KEYS[1])) or '0-0'
