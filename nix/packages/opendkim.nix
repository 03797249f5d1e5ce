# OpenDKIM for signing only.
{ opendkim }: opendkim
