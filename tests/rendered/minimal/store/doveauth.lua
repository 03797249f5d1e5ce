-- Logins and account lookups of Dovecot, as `passdb lua` and `userdb lua`.
--
-- doveauth decides about passwords and creates accounts. While it does not answer, accounts that exist are verified
-- here against their password file, so that they log in while doveauth restarts; new ones are asked to come back.
--
-- Settings (`lua_settings`, the same in both blocks because Dovecot loads the script once for both):
--   mailboxes_dir  folder that holds one folder per account, named by the full address
--   url            where doveauth listens, without a path
--   owner          user and group that own the accounts
--
-- Runs in Dovecot's auth-worker processes, as the owner of the accounts. A worker serves one login at a time and waits
-- while it does; every wait therefore has a limit.

local auth = dovecot.auth

-- doveauth answers within 5 s, even if it is to say that it is too busy.
local REQUEST_TIMEOUT = "8s"
local CONNECT_TIMEOUT = "1s"

-- For so many seconds after a failure accounts that exist are verified here at once: a doveauth that hangs costs each
-- worker one wait, not one per login.
local PAUSE = 5

-- Only these are ever stored. Dovecot takes a hash without a scheme for a cleartext password, which must not happen.
local SCHEMES = { ["{ARGON2ID}"] = true, ["{SHA512-CRYPT}"] = true }

-- Longest address (RFC 5321 sections 4.5.3.1.1 and 4.5.3.1.2, and the @).
local MAX_ADDRESS = 320

local ENOENT, ENOTDIR = 2, 20

local mailboxes_dir, url, owner, client
local silent_until = 0

function script_init(settings)
  mailboxes_dir = settings.mailboxes_dir
  url = settings.url
  owner = settings.owner
  assert(mailboxes_dir and url and owner, "lua_settings needs mailboxes_dir, url and owner")
  client = dovecot.http.client({
    connect_timeout = CONNECT_TIMEOUT,
    request_timeout = REQUEST_TIMEOUT,
    request_absolute_timeout = REQUEST_TIMEOUT,
    request_max_attempts = "1",
    max_connect_attempts = "1",
    auto_redirect = "no",
    auto_retry = "no",
  })
end

-- The account's folder; none for what is not an address, which could name a folder elsewhere.
local function home_of(user)
  if #user <= MAX_ADDRESS and user:find("^[^@/%c%s.][^@/%c%s]*@[^@/%c%s.][^@/%c%s]*$") then
    return mailboxes_dir .. "/" .. user
  end
  return nil
end

-- The stored hash; none when there is no account. An account whose password cannot be read is an error: it is neither
-- unknown nor let in.
local function password_hash(home)
  local file, _, code = io.open(home .. "/password", "r")
  if not file then
    if code == ENOENT or code == ENOTDIR then
      return nil
    end
    error("cannot open a password file (error " .. code .. ")")
  end
  local text = file:read(1024)
  file:close()
  local hash = text and text:match("^(%S+)%s*$")
  if not hash then
    error("a password file holds no hash")
  end
  return hash
end

-- `chatmail account ban` writes this.
local function is_banned(hash)
  return hash:sub(1, 1) == "!"
end

local ESCAPES = { ['"'] = '\\"', ["\\"] = "\\\\" }

local function json_string(text)
  return '"' .. text:gsub('[%c"\\]', function(c)
    return ESCAPES[c] or string.format("\\u%04x", c:byte())
  end) .. '"'
end

-- What doveauth says: "ok", "mismatch" or "tempfail"; none when it does not answer.
local function ask(user, password)
  local request = client:request({ url = url .. "/auth", method = "POST" })
  request:add_header("Content-Type", "application/json")
  request:set_payload('{"user":' .. json_string(user) .. ',"password":' .. json_string(password) .. "}")
  local response = request:submit()
  if response:status() ~= 200 then
    return nil
  end
  return response:payload():match('^{"status":"(%l+)"}$')
end

-- "ok" or "mismatch" by the password file; none when there is no account.
local function verify_here(request, home, password)
  local hash = home and password_hash(home)
  if not hash then
    return nil
  end
  if is_banned(hash) then
    return "mismatch"
  end
  if not SCHEMES[hash:match("^{[%w-]+}")] then
    error("a password file has an unknown scheme")
  end
  local result, message = request:password_verify(hash, password)
  if result < 0 then
    error(message)
  end
  return result > 0 and "ok" or "mismatch"
end

local function fields(home, prefix)
  return {
    [prefix .. "home"] = home,
    [prefix .. "uid"] = owner,
    [prefix .. "gid"] = owner,
  }
end

function auth_password_verify(request, password)
  local home = home_of(request.user)
  local status
  if os.time() < silent_until then
    status = verify_here(request, home, password)
  end
  if not status then
    status = ask(request.user, password)
    if status then
      silent_until = 0
    else
      -- Not through the request, whose log lines carry the client's address.
      dovecot.i_warning("doveauth does not answer")
      silent_until = os.time() + PAUSE
      status = verify_here(request, home, password)
    end
  end
  if status == "ok" and home then
    -- For `userdb prefetch`, which spares the lookup that would follow.
    return auth.PASSDB_RESULT_OK, fields(home, "userdb_")
  elseif status == "mismatch" then
    return auth.PASSDB_RESULT_PASSWORD_MISMATCH, nil
  end
  return auth.PASSDB_RESULT_INTERNAL_FAILURE, "doveauth asks to try again later"
end

function auth_userdb_lookup(request)
  local home = home_of(request.user)
  local hash = home and password_hash(home)
  -- Mail to a banned account is returned, as if there was no account.
  if not hash or is_banned(hash) then
    return auth.USERDB_RESULT_USER_UNKNOWN, nil
  end
  return auth.USERDB_RESULT_OK, fields(home, "")
end

-- Lua cannot list a folder: doveauth does, one address a line.
function auth_userdb_iterate()
  local response = client:request({ url = url .. "/users", method = "GET" }):submit()
  if response:status() ~= 200 then
    error("doveauth does not list the accounts: " .. response:reason())
  end
  local users = {}
  for user in response:payload():gmatch("[^\n]+") do
    users[#users + 1] = user
  end
  return users
end
