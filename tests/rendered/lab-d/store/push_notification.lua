-- Tells chatmail-metadata about a new message, through METADATA: its dict sees `/private/messagenew` being set.
--
-- What a user sends to themself (for their other devices) wakes nobody.

function dovecot_lua_notify_begin_txn(user)
  return user
end

function dovecot_lua_notify_event_message_new(user, event)
  if user.username == event.from_address then
    return
  end
  local mailbox = user:mailbox(event.mailbox)
  -- Opens the mailbox, too: on one that is not open metadata_set ends the whole process, and with it the delivery.
  mailbox:sync()
  mailbox:metadata_set("/private/messagenew", "")
  mailbox:free()
end

function dovecot_lua_notify_end_txn() end
