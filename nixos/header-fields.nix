# Header fields that messages do not keep. Postfix drops them from messages in its queue, and the filters from messages
# that they deliver themselves.
{
  # Fields that are useless after the message was accepted, and that reveal its path.
  delivered = [
    "DKIM-Signature"
    "Authentication-Results"
    "Received"
  ];
  # Fields that reveal the sender's device and network.
  submitted = [
    "Received"
    "X-Originating-IP"
    "X-Mailer"
    "User-Agent"
    # RFC 8689: a message must not control how it is delivered, here or at the next relay.
    "TLS-Required"
    "Require-TLS-ESMTP"
  ];
  # The real subject is inside the encrypted part.
  subject = "[...]";
  # Fields that Postfix never keeps (message_drop_headers).
  always = [
    "Bcc"
    "Content-Length"
    "Resent-Bcc"
    "Return-Path"
  ];
}
