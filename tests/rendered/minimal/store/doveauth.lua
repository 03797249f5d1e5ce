-- Logins and account lookups of Dovecot, as passdb and userdb with `driver = lua`.
--
-- doveauth verifies passwords and creates accounts. While it does not respond, this script verifies existing accounts
-- against their password file, so that they can log in while doveauth restarts; all others get a temporary failure.
--
-- Settings (`lua_settings`, the same in both blocks because Dovecot loads the script once for both):
--   mailboxes_directory  folder with one folder per account, named after the full address
--   socket               Unix socket of doveauth
--   owner                user and group that own the accounts
--
-- Runs in Dovecot's auth-worker processes, as the owner of the accounts. A worker serves one login at a time and blocks
-- while it waits, so every wait has a limit.

local auth = dovecot.auth

-- doveauth answers within 5 s, even if only to report that it is too busy.
local REQUEST_TIMEOUT = "8s"
local CONNECT_TIMEOUT = "1s"

-- Seconds after a failure during which the script verifies existing accounts at once: if doveauth hangs, each worker
-- waits once, not for every login.
local PAUSE = 5

-- Seconds between two passwords that one worker verifies itself. Nothing else limits the CPU time for hashing while
-- doveauth is down.
local VERIFY_EVERY = 1

-- As in doveauth: a longer password is always wrong.
local MAX_PASSWORD = 1024

-- The host name has no effect: all requests go to the socket.
local URL = "http://doveauth"

-- The only schemes that are ever stored. Dovecot would treat a hash without a scheme as a cleartext password.
local SCHEMES = { ["{ARGON2ID}"] = true, ["{SHA512-CRYPT}"] = true }

-- Longest address (RFC 5321 sections 4.5.3.1.1 and 4.5.3.1.2, and the @).
local MAX_ADDRESS = 320

local ENOENT, ENOTDIR = 2, 20

local mailboxes_directory, owner, client
local silent_until = 0
local verify_again = 0

function script_init(settings)
  mailboxes_directory = settings.mailboxes_directory
  owner = settings.owner
  assert(mailboxes_directory and settings.socket and owner, "lua_settings needs mailboxes_directory, socket and owner")
  client = dovecot.http.client({
    -- Dovecot's HTTP client connects to a Unix socket only as a "proxy".
    proxy_socket_path = settings.socket,
    connect_timeout = CONNECT_TIMEOUT,
    request_timeout = REQUEST_TIMEOUT,
    request_absolute_timeout = REQUEST_TIMEOUT,
    -- If doveauth is killed, its requests are sent again. systemd holds the socket, so they wait there for the new
    -- process. All attempts together have the time of one.
    request_max_attempts = "5",
    max_connect_attempts = "1",
    auto_redirect = "no",
  })
end

-- The account's folder; nil for anything that is not an address, which could be a path to another folder.
local function home_of(user)
  if #user <= MAX_ADDRESS and user:find("^[^@/%c%s.][^@/%c%s]*@[^@/%c%s.][^@/%c%s]*$") then
    return mailboxes_directory .. "/" .. user
  end
  return nil
end

-- The stored hash; nil if there is no account. An account whose password cannot be read is an error: it is neither
-- unknown nor allowed to log in.
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

-- `chatmail account ban` writes this prefix.
local function is_banned(hash)
  return hash:sub(1, 1) == "!"
end

-- The answer of doveauth: "ok", "mismatch" or "tempfail"; nil if doveauth is down. A request that it rejects does not
-- mean that it is down.
local function ask(user, password)
  local request = client:request({ url = URL .. "/auth", method = "POST" })
  request:add_header("Content-Type", "application/octet-stream")
  -- No user name contains a line feed.
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

-- "ok" if the password matches the file, "mismatch" for a banned account; nil in all other cases, so that nobody can
-- find out which accounts exist.
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
        -- Not logged through the request, whose lines contain the client's address.
        dovecot.i_warning("doveauth does not answer")
      end
      silent_until = os.time() + PAUSE
      status = not silent and verify_here(request, home, password)
    end
  end
  if status == "ok" then
    -- For `userdb prefetch`, which saves the lookup that would follow.
    return auth.PASSDB_RESULT_OK, fields(home, "userdb_")
  elseif status == "mismatch" then
    return auth.PASSDB_RESULT_PASSWORD_MISMATCH, nil
  end
  -- Dovecot logs this with the account and the client's address; its unit drops the line.
  return auth.PASSDB_RESULT_INTERNAL_FAILURE, "doveauth asks to try again later"
end

function auth_userdb_lookup(request)
  local home = home_of(request.user)
  local hash = home and password_hash(home)
  -- Mail to a banned account bounces, as if there were no account.
  if not hash or is_banned(hash) then
    return auth.USERDB_RESULT_USER_UNKNOWN, nil
  end
  return auth.USERDB_RESULT_OK, fields(home, "")
end

-- Lua cannot list a folder: doveauth does, with one address per line.
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
