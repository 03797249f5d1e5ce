"""Parses messages with the email package: reads a JSON string with base64 per line, prints a JSON object for each.

The package raises exceptions of many types on fields that it cannot parse.
"""

import base64
import email
import email.policy
import json
import sys


def decoded(part):
    body = part.get_payload(decode=True)
    return None if body is None else base64.b64encode(body).decode()


def outside(text):
    return (text or "").encode("ascii", "replace").decode().strip(" \t\r\n")


def read(message):
    mail = email.message_from_bytes(message, policy=email.policy.default)
    senders = mail.get_all("From", [])
    parts = list(mail.iter_parts()) if mail.is_multipart() else []
    return {
        "senders": [f"{a.username}@{a.domain}" for field in senders for a in field.addresses],
        "type": mail.get_content_type(),
        "preamble": outside(mail.preamble),
        "epilogue": outside(mail.epilogue),
        "parts": [{"type": p.get_content_type(), "multipart": p.is_multipart(), "body": decoded(p)} for p in parts],
    }


def outcome(message):
    try:
        return {"Ok": read(message)}
    except Exception as error:
        return {"Err": repr(error)}


for line in sys.stdin:
    print(json.dumps(outcome(base64.b64decode(json.loads(line)))))
