"""An app of Faust: an agent over a topic, and a table with a tumbling window."""

import os

import faust

app = faust.App("payments", broker=os.environ["KAFKA"], store="memory://", topic_partitions=4)


class Payment(faust.Record):
    user: str
    amount: int
    at: float


payments = app.topic("faust-payments", value_type=Payment, internal=True, partitions=4)
totals = app.topic("faust-totals", internal=True, partitions=4)
per_user = app.Table("per-user", default=int).tumbling(10.0, expires=3600.0).relative_to_field(Payment.at)


@app.agent(payments)
async def add(stream):
    async for payment in stream:
        per_user[payment.user] += payment.amount
        total = per_user[payment.user].value()
        await totals.send(key=payment.user, value={"user": payment.user, "window": payment.at // 10, "total": total})


if __name__ == "__main__":
    app.main()
