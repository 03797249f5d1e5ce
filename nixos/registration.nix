# The folder of invitations and of the number of new accounts. doveauth and `chatmail invite` write there as vmail;
# newemail, which answers requests from the Internet, can only read.
{
  directory = "/var/lib/chatmail-registration";
  group = "chatmail-registration";
}
