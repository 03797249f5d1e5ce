-- Notifies chatmail-metadata of a new message through METADATA, by setting `/private/messagenew` in its dict.
--
-- Messages that a user sends to themselves (for their other devices) trigger no notification.

function dovecot_lua_notify_begin_txn(user)
  return user
end

function dovecot_lua_notify_event_message_new(user, event)
  if user.username == event.from_address then
    return
  end
  local mailbox = user:mailbox(event.mailbox)
  -- This also opens the mailbox: metadata_set on a closed one ends the whole process, and with it the delivery.
  mailbox:sync()
  mailbox:metadata_set("/private/messagenew", "")
  mailbox:free()
end

function dovecot_lua_notify_end_txn() end
