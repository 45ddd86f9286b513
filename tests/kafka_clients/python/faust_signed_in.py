"""An app of Faust that signs in, sends itself a message, and ends when that has come."""

import os

import faust
from aiokafka.abc import AbstractTokenProvider
from aiokafka.helpers import create_ssl_context


class Bearer(AbstractTokenProvider):
    """Has one JWT."""

    async def token(self):
        return os.environ["TOKEN"]


how = {"ssl_context": create_ssl_context(cafile=os.environ["CA"])} if os.environ["CA"] else {}
if os.environ["MECHANISM"] == "OAUTHBEARER":
    credentials = faust.OAuthCredentials(oauth_cb=Bearer(), **how)
else:
    credentials = faust.SASLCredentials(username="admin", password=os.environ["TOKEN"], mechanism=os.environ["MECHANISM"], **how)

app = faust.App(
    "signed-in", broker=os.environ["KAFKA"], broker_credentials=credentials, store="memory://", topic_partitions=4)
greetings = app.topic("faust-greetings", internal=True, partitions=4)


@app.agent(greetings)
async def read(stream):
    async for greeting in stream:
        assert greeting == {"hello": "quipu"}, greeting
        # A worker takes what is printed for its log, and does not end by itself.
        os.write(1, b"sign_in: passed\n")
        os._exit(0)


@app.task
async def greet():
    await greetings.send(key="ann", value={"hello": "quipu"})


if __name__ == "__main__":
    app.main()
