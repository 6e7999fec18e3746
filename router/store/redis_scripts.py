"""What the Redis-protocol server does in one step, in Lua 5.1.

Keys, all in one hash slot (``{pyrouter}:``), made from the prefix in KEYS[1]; times are epoch seconds of the callers:

- ``<kind>`` and ``<kind>:until`` (kind: workers, requests, given, notes): a hash of records and a sorted set of when
  they end.
- ``given:worker``: request -> worker; ``held:<worker>``: a sorted set of its requests by their end.
- ``lead:<office>``: who holds it, until when.
- ``job:<id>``: a hash of a job's columns; ``key:<digest>`` -> id; ``named:<digest>``: ids by place.
- ``all``, ``owned:<tenant>``: all jobs, and a tenant's, by place; ``tally:<tenant>``: how many there are in each state.
- ``line:<priority>``: waiting jobs by place; ``line:<priority>:<tenant>``: a tenant's;
  ``lines:<priority>``: the tenants that have any.
- ``leases:<priority>``: leased ones by the end of the lease; ``ended:<state>``: jobs that are over by their end;
  ``notices``: those of whose end somebody is to be told, by when.

Jobs wait in sorted sets and not in streams, as one that goes back has its place in the line again, one that is
cancelled leaves it from the middle, and who holds a job until when is a matter of its lease and fence.
"""

import hashlib
from dataclasses import dataclass, field

from router.ports import JobState

SWEPT = 50
"""Records that are over and are forgotten by each call that writes one; calls outnumber records."""

COUNT = """
local function count(tenant, old, new)
  if old == new then return end
  if old then redis.call('HINCRBY', KEYS[1] .. 'tally:' .. tenant, old, -1) end
  if new then redis.call('HINCRBY', KEYS[1] .. 'tally:' .. tenant, new, 1) end
end
"""


LINE = """
local function wait(priority, tenant, id, place)
  local line = KEYS[1] .. 'line:' .. priority
  redis.call('ZADD', line, place, id)
  redis.call('ZADD', line .. ':' .. tenant, place, id)
  redis.call('SADD', KEYS[1] .. 'lines:' .. priority, tenant)
end
local function leave(priority, tenant, id)
  local line = KEYS[1] .. 'line:' .. priority
  if redis.call('ZREM', line, id) == 0 then return end
  redis.call('ZREM', line .. ':' .. tenant, id)
  if redis.call('EXISTS', line .. ':' .. tenant) == 0 then
    redis.call('SREM', KEYS[1] .. 'lines:' .. priority, tenant)
  end
end
"""


BRIEF = """
local function brief(job)
  local names = {'job_id', 'tenant', 'priority', 'state', 'fence', 'lease_until', 'holder', 'cancel_wanted',
    'finished_at', 'notice_at', 'named', 'keyed', 'head'}
  local values, row = redis.call('HMGET', job, unpack(names)), {}
  for i, name in ipairs(names) do
    row[#row + 1] = name
    row[#row + 1] = values[i] or ''
  end
  return row
end
"""
"""A job's columns but for what is large."""


@dataclass(frozen=True, slots=True)
class Script:
    """A script with the name by which a server that had it once knows it."""

    text: str
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sha", hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest())


PUT = Script(f"""
-- kind, name, record, now, until
local values, ends = KEYS[1] .. ARGV[1], KEYS[1] .. ARGV[1] .. ':until'
for _, name in ipairs(redis.call('ZRANGEBYSCORE', ends, '-inf', ARGV[4], 'LIMIT', 0, {SWEPT})) do
  redis.call('ZREM', ends, name)
  redis.call('HDEL', values, name)
end
redis.call('HSET', values, ARGV[2], ARGV[3])
redis.call('ZADD', ends, ARGV[5], ARGV[2])
return 1
""")

DROP = Script("""
-- kind, name
redis.call('ZREM', KEYS[1] .. ARGV[1] .. ':until', ARGV[2])
return redis.call('HDEL', KEYS[1] .. ARGV[1], ARGV[2])
""")

ONE = Script("""
-- kind, name, now
local ends = redis.call('ZSCORE', KEYS[1] .. ARGV[1] .. ':until', ARGV[2])
if not ends or tonumber(ends) <= tonumber(ARGV[3]) then return false end
return redis.call('HGET', KEYS[1] .. ARGV[1], ARGV[2])
""")

ALL = Script("""
-- kind, now
local found = {}
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1] .. ARGV[1] .. ':until', '(' .. ARGV[2], '+inf')) do
  found[#found + 1] = redis.call('HGET', KEYS[1] .. ARGV[1], name)
end
return found
""")

RESERVE = Script(f"""
-- request, worker, record, slots, now, until
local p, id, worker, now = KEYS[1], ARGV[1], ARGV[2], ARGV[5]
local held = p .. 'held:' .. worker
redis.call('ZREMRANGEBYSCORE', held, '-inf', now)
local here = redis.call('ZSCORE', held, id)
if not here then
  if redis.call('ZCARD', held) >= tonumber(ARGV[4]) then return 0 end
  local before = redis.call('HGET', p .. 'given:worker', id)
  if before then redis.call('ZREM', p .. 'held:' .. before, id) end
  redis.call('HSET', p .. 'given:worker', id, worker)
  redis.call('HSET', p .. 'given', id, ARGV[3])
end
redis.call('ZADD', held, ARGV[6], id)
redis.call('ZADD', p .. 'given:until', ARGV[6], id)
for _, name in ipairs(redis.call('ZRANGEBYSCORE', p .. 'given:until', '-inf', now, 'LIMIT', 0, {SWEPT})) do
  local holder = redis.call('HGET', p .. 'given:worker', name)
  if holder then redis.call('ZREM', p .. 'held:' .. holder, name) end
  redis.call('ZREM', p .. 'given:until', name)
  redis.call('HDEL', p .. 'given:worker', name)
  redis.call('HDEL', p .. 'given', name)
end
return 1
""")

SETTLE = Script("""
-- request
local p, id = KEYS[1], ARGV[1]
local worker = redis.call('HGET', p .. 'given:worker', id)
if not worker then return 0 end
redis.call('ZREM', p .. 'held:' .. worker, id)
redis.call('ZREM', p .. 'given:until', id)
redis.call('HDEL', p .. 'given:worker', id)
return redis.call('HDEL', p .. 'given', id)
""")

LEAD = Script("""
-- office, holder, now, until
local leader, ends = unpack(redis.call('HMGET', KEYS[1] .. 'lead:' .. ARGV[1], 'holder', 'until'))
if leader and leader ~= ARGV[2] and tonumber(ends) > tonumber(ARGV[3]) then return leader end
redis.call('HSET', KEYS[1] .. 'lead:' .. ARGV[1], 'holder', ARGV[2], 'until', ARGV[4])
return ARGV[2]
""")

ADD = Script(f"""
-- id, digest of its idempotency key or '', digest of its name, priority, tenant, columns...
{COUNT}{LINE}
local p, known = KEYS[1], ARGV[1]
if redis.call('EXISTS', p .. 'job:' .. known) == 0 then
  known = ARGV[2] ~= '' and redis.call('GET', p .. 'key:' .. ARGV[2])
end
if known then return redis.call('HGETALL', p .. 'job:' .. known) end
local place = redis.call('INCR', p .. 'place')
redis.call('HSET', p .. 'job:' .. ARGV[1], 'place', place, unpack(ARGV, 6))
if ARGV[2] ~= '' then redis.call('SET', p .. 'key:' .. ARGV[2], ARGV[1]) end
redis.call('ZADD', p .. 'named:' .. ARGV[3], place, ARGV[1])
wait(ARGV[4], ARGV[5], ARGV[1], place)
redis.call('ZADD', p .. 'all', place, ARGV[1])
redis.call('ZADD', p .. 'owned:' .. ARGV[5], place, ARGV[1])
count(ARGV[5], nil, '{JobState.WAITING}')
return {{}}
""")

FIND = Script("""
-- digest of the name
local id = redis.call('ZREVRANGE', KEYS[1] .. 'named:' .. ARGV[1], 0, 0)[1]
return id and redis.call('HGETALL', KEYS[1] .. 'job:' .. id) or {}
""")

LEASE = Script(f"""
-- holder, limit, until, now, number of priorities, priorities..., tenants that have enough...
{COUNT}{LINE}{BRIEF}
local p, limit, taken, apart = KEYS[1], tonumber(ARGV[2]), {{}}, {{}}
local last = 5 + tonumber(ARGV[5])
for i = last + 1, #ARGV do apart[ARGV[i]] = true end
for c = 6, last do
  local line, leases, found, left = p .. 'line:' .. ARGV[c], p .. 'leases:' .. ARGV[c], {{}}, limit - #taken
  if left == 0 then break end
  for _, tenant in ipairs(redis.call('SMEMBERS', p .. 'lines:' .. ARGV[c])) do
    local ids = apart[tenant] and {{}} or redis.call('ZRANGE', line .. ':' .. tenant, 0, left - 1, 'WITHSCORES')
    for i = 1, #ids, 2 do found[#found + 1] = {{tonumber(ids[i + 1]), ids[i]}} end
  end
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', ARGV[4])) do
    found[#found + 1] = {{tonumber(redis.call('HGET', p .. 'job:' .. id, 'place')), id}}
  end
  table.sort(found, function(a, b) return a[1] < b[1] end)
  for i = 1, math.min(#found, left) do
    local id = found[i][2]
    local job = p .. 'job:' .. id
    local old = redis.call('HMGET', job, 'tenant', 'state')
    count(old[1], old[2], '{JobState.LEASED}')
    leave(ARGV[c], old[1], id)
    redis.call('ZADD', leases, ARGV[3], id)
    redis.call('HINCRBY', job, 'fence', 1)
    redis.call('HSET', job, 'state', '{JobState.LEASED}', 'holder', ARGV[1], 'lease_until', ARGV[3])
    taken[#taken + 1] = brief(job)
  end
end
return taken
""")

HELD = Script("""
-- holder, keys' ends...
local found = {}
for i = 2, #ARGV do
  for _, id in ipairs(redis.call('ZRANGE', KEYS[1] .. ARGV[i], 0, -1)) do
    local holder, fence = unpack(redis.call('HMGET', KEYS[1] .. 'job:' .. id, 'holder', 'fence'))
    if holder == ARGV[1] then
      found[#found + 1] = id
      found[#found + 1] = fence
    end
  end
end
return found
""")

RENEW = Script(f"""
-- until, id and fence...
local p, held = KEYS[1], {{}}
for i = 2, #ARGV, 2 do
  local job = p .. 'job:' .. ARGV[i]
  local old = redis.call('HMGET', job, 'fence', 'state', 'priority', 'cancel_wanted')
  if old[1] == ARGV[i + 1] and old[2] == '{JobState.LEASED}' then
    redis.call('ZADD', p .. 'leases:' .. old[3], ARGV[1], ARGV[i])
    redis.call('HSET', job, 'lease_until', ARGV[1])
    held[#held + 1] = ARGV[i]
    held[#held + 1] = old[4] or '0'
  end
end
return held
""")

SAVE = Script(f"""
-- id, fence that it must have, state that it may have if it is over, state that it gets, lease_until, finished_at,
-- notice_at, columns...
{COUNT}{LINE}
local p, id, state = KEYS[1], ARGV[1], ARGV[4]
local job = p .. 'job:' .. id
local old = redis.call('HMGET', job, 'fence', 'state', 'priority', 'place', 'tenant')
if old[1] ~= ARGV[2] then return 0 end
local over = old[2] ~= '{JobState.WAITING}' and old[2] ~= '{JobState.LEASED}'
if over and old[2] ~= ARGV[3] then return 0 end
leave(old[3], old[5], id)
redis.call('ZREM', p .. 'leases:' .. old[3], id)
if over then redis.call('ZREM', p .. 'ended:' .. old[2], id) end
if state == '{JobState.WAITING}' then wait(old[3], old[5], id, old[4])
elseif state == '{JobState.LEASED}' then redis.call('ZADD', p .. 'leases:' .. old[3], ARGV[5], id)
else redis.call('ZADD', p .. 'ended:' .. state, ARGV[6], id) end
if tonumber(ARGV[7]) > 0 then redis.call('ZADD', p .. 'notices', ARGV[7], id)
else redis.call('ZREM', p .. 'notices', id) end
redis.call('HSET', job, 'state', state, 'lease_until', ARGV[5], 'finished_at', ARGV[6], 'notice_at', ARGV[7],
  unpack(ARGV, 8))
count(old[5], old[2], state)
return 1
""")

WANT_CANCEL = Script(f"""
-- id, now
{COUNT}{LINE}
local p, id = KEYS[1], ARGV[1]
local job = p .. 'job:' .. id
local old = redis.call('HMGET', job, 'state', 'priority', 'tenant')
if old[1] == '{JobState.WAITING}' then
  leave(old[2], old[3], id)
  redis.call('ZADD', p .. 'ended:{JobState.CANCELLED}', ARGV[2], id)
  redis.call('HSET', job, 'state', '{JobState.CANCELLED}', 'finished_at', ARGV[2], 'cancel_wanted', '1')
  count(old[3], old[1], '{JobState.CANCELLED}')
elseif old[1] == '{JobState.LEASED}' then
  redis.call('HSET', job, 'cancel_wanted', '1')
end
return redis.call('HGETALL', job)
""")

TALLY = Script("""
-- tenant, states...
local found, name = {}, KEYS[1] .. 'tally:' .. ARGV[1]
for i = 2, #ARGV do found[i - 1] = redis.call('HGET', name, ARGV[i]) or 0 end
return found
""")

LISTED = Script(f"""
-- key's end, id before which or '', limit, states...
{BRIEF}
local p, limit, found, wanted = KEYS[1], tonumber(ARGV[3]), {{}}, {{}}
for i = 4, #ARGV do wanted[ARGV[i]] = true end
local top = '+inf'
if ARGV[2] ~= '' then
  local place = redis.call('HGET', p .. 'job:' .. ARGV[2], 'place')
  if not place then return found end
  top = '(' .. place
end
local at = 0
while #found < limit do
  local ids = redis.call('ZREVRANGEBYSCORE', p .. ARGV[1], top, '-inf', 'LIMIT', at, 100)
  if #ids == 0 then break end
  at = at + #ids
  for _, id in ipairs(ids) do
    local job = p .. 'job:' .. id
    if #found < limit and wanted[redis.call('HGET', job, 'state')] then
      found[#found + 1] = brief(job)
    end
  end
end
return found
""")

DUE = Script(f"""
-- moment, limit
{BRIEF}
local found = {{}}
for i, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1] .. 'notices', '-inf', '(' .. ARGV[1], 'LIMIT', 0, ARGV[2])) do
  found[i] = brief(KEYS[1] .. 'job:' .. id)
end
return found
""")

COUNTS = Script("""
-- keys' ends...
local found = {}
for i, name in ipairs(ARGV) do found[i] = redis.call('ZCARD', KEYS[1] .. name) end
return found
""")

DEAD = Script(f"""
-- 1 for all tenants, tenant, limit
local p, limit, found, at = KEYS[1], tonumber(ARGV[3]), {{}}, 0
while #found < limit do
  local ids = redis.call('ZREVRANGE', p .. 'ended:{JobState.DEAD}', at, at + 99)
  if #ids == 0 then break end
  at = at + #ids
  for _, id in ipairs(ids) do
    local job = p .. 'job:' .. id
    if #found < limit and (ARGV[1] == '1' or redis.call('HGET', job, 'tenant') == ARGV[2]) then
      found[#found + 1] = redis.call('HGETALL', job)
    end
  end
end
return found
""")

EXPIRE = Script(f"""
-- moment, limit, states...
{COUNT}
local p, total = KEYS[1], 0
for s = 3, #ARGV do
  local ended = p .. 'ended:' .. ARGV[s]
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', ended, '-inf', '(' .. ARGV[1], 'LIMIT', 0, ARGV[2])) do
    local job = p .. 'job:' .. id
    local old = redis.call('HMGET', job, 'named', 'keyed', 'tenant')
    redis.call('ZREM', ended, id)
    if old[1] then redis.call('ZREM', p .. 'named:' .. old[1], id) end
    if old[2] and old[2] ~= '' then redis.call('DEL', p .. 'key:' .. old[2]) end
    redis.call('ZREM', p .. 'all', id)
    redis.call('ZREM', p .. 'notices', id)
    if old[3] then
      redis.call('ZREM', p .. 'owned:' .. old[3], id)
      count(old[3], ARGV[s], nil)
    end
    redis.call('DEL', job)
    total = total + 1
  end
end
return total
""")
