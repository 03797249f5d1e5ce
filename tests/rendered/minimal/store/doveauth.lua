-- Logins and account lookups of Dovecot, as `passdb lua` and `userdb lua`.
--
-- doveauth decides about passwords and creates accounts. While it does not answer, accounts that exist are verified
-- here against their password file, so that they log in while doveauth restarts; everybody else is asked to come back.
--
-- Settings (`lua_settings`, the same in both blocks because Dovecot loads the script once for both):
--   mailboxes_dir  folder that holds one folder per account, named by the full address
--   socket         Unix socket of doveauth
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

-- Seconds between two passwords that one worker verifies itself. Nothing else bounds what hashing takes from the machine
-- while doveauth is down.
local VERIFY_EVERY = 1

-- As in doveauth: a longer password is wrong, whoever it is for.
local MAX_PASSWORD = 1024

-- The host is only for show: all requests go to the socket.
local URL = "http://doveauth"

-- Only these are ever stored. Dovecot takes a hash without a scheme for a cleartext password, which must not happen.
local SCHEMES = { ["{ARGON2ID}"] = true, ["{SHA512-CRYPT}"] = true }

-- Longest address (RFC 5321 sections 4.5.3.1.1 and 4.5.3.1.2, and the @).
local MAX_ADDRESS = 320

local ENOENT, ENOTDIR = 2, 20

local mailboxes_dir, owner, client
local silent_until = 0
local verify_again = 0

function script_init(settings)
  mailboxes_dir = settings.mailboxes_dir
  owner = settings.owner
  assert(mailboxes_dir and settings.socket and owner, "lua_settings needs mailboxes_dir, socket and owner")
  client = dovecot.http.client({
    -- A "proxy" is how Dovecot's client reaches a Unix socket.
    proxy_socket_path = settings.socket,
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

-- What doveauth says: "ok", "mismatch" or "tempfail"; none when it is down, which a request that it refuses is no sign of.
local function ask(user, password)
  local request = client:request({ url = URL .. "/auth", method = "POST" })
  request:add_header("Content-Type", "application/octet-stream")
  -- No user has a line feed in its name.
  request:set_payload(user .. "\n" .. password)
  local response = request:submit()
  local code = response:status()
  if code == 200 then
    return response:payload():match('^{"status":"(%l+)"}$')
  elseif code >= 400 and code < 500 then
    return "mismatch"
  end
  return nil
end

-- "ok" if the password file says so, "mismatch" for a banned account; none in all other cases, so that nobody learns which
-- accounts exist.
local function verify_here(request, home, password)
  local now = os.time()
  local hash = home and password_hash(home)
  if hash and is_banned(hash) then
    return "mismatch"
  end
  if not hash or now < verify_again then
    return nil
  end
  if not SCHEMES[hash:match("^{[%w-]+}")] then
    error("a password file has an unknown scheme")
  end
  verify_again = now + VERIFY_EVERY
  local result, message = request:password_verify(hash, password)
  if result < 0 then
    error(message)
  end
  return result > 0 and "ok" or nil
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
  if not home or #password > MAX_PASSWORD then
    return auth.PASSDB_RESULT_PASSWORD_MISMATCH, nil
  end
  local status
  local silent = os.time() < silent_until
  if silent then
    status = verify_here(request, home, password)
  end
  if not status then
    status = ask(request.user, password)
    if status then
      silent_until = 0
    else
      if not silent then
        -- Not through the request, whose log lines carry the client's address.
        dovecot.i_warning("doveauth does not answer")
      end
      silent_until = os.time() + PAUSE
      status = not silent and verify_here(request, home, password)
    end
  end
  if status == "ok" then
    -- For `userdb prefetch`, which spares the lookup that would follow.
    return auth.PASSDB_RESULT_OK, fields(home, "userdb_")
  elseif status == "mismatch" then
    return auth.PASSDB_RESULT_PASSWORD_MISMATCH, nil
  end
  -- Dovecot writes this to the log, with the account and the client's address; its unit drops the line.
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
  local response = client:request({ url = URL .. "/users", method = "GET" }):submit()
  if response:status() ~= 200 then
    error("doveauth does not list the accounts: " .. response:reason())
  end
  local users = {}
  for user in response:payload():gmatch("[^\n]+") do
    users[#users + 1] = user
  end
  return users
end
