"""A client that loses nothing: it keeps what it has said until the count of it is final."""

import asyncio
import json
import random
import time
from collections import deque

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

KEEP_S = 2.0  # Twice the server's TALLY_CHECKPOINT.


class Client:
    def __init__(self, url, on_count):
        self.url, self.on_count = url, on_count
        self.session, self.socket = None, None
        self.kept = deque()  # [text, when it was counted]; the first is number final + 1.
        self.final = 0
        self.sent = 0  # The last number that went over this connection.

    async def say(self, text):
        self.kept.append([text, float("inf")])
        await self.flush()

    async def flush(self):
        while self.socket and self.sent < self.final + len(self.kept):
            self.sent += 1
            try:
                await self.socket.send(self.kept[self.sent - self.final - 1][0])
            except ConnectionClosed:
                return  # It is sent again over the next connection.

    async def run(self):
        failures = 0
        while True:
            resume = f"&session={self.session}" if self.session else ""
            try:
                async with connect(f"{self.url}?hello=1{resume}") as socket:
                    failures = 0
                    async for text in socket:
                        await self.receive(socket, json.loads(text))
                if socket.close_code == 4001:  # The session goes on over another connection.
                    return
            except (ConnectionClosed, InvalidHandshake, OSError):
                pass
            self.socket = None  # Full jitter, so that a crowd comes back spread out.
            await asyncio.sleep(random.uniform(0, min(15, 0.2 * 2**failures)))
            failures += 1

    async def receive(self, socket, frame):
        if "session" in frame:  # The server's count says what it has; the rest is sent again.
            self.session, self.sent = frame["session"], frame["count"]
            self.final = min(self.final, self.sent) if frame["resumed"] else 0
            for message in list(self.kept)[max(self.sent - self.final, 0):]:
                message[1] = float("inf")
            self.socket = socket
            await self.flush()
        elif "count" in frame:
            self.kept[frame["count"] - self.final - 1][1] = time.monotonic()
            while self.kept and self.kept[0][1] < time.monotonic() - KEEP_S:
                self.kept.popleft()
                self.final += 1
            self.on_count(frame["count"])
