"""Says as many messages as it is told, one every 10 ms, and prints the last count.

python talk.py ws://127.0.0.1:8080/ws/chat/ 300
"""

import asyncio
import sys

from client import Client


async def main(url, messages):
    done = asyncio.get_running_loop().create_future()

    def counted(count):
        if count >= messages and not done.done():
            done.set_result(count)

    client = Client(url, counted)
    running = asyncio.create_task(client.run())
    for number in range(messages):
        await client.say(str(number))
        await asyncio.sleep(0.01)
    print(await done)
    running.cancel()


asyncio.run(main(sys.argv[1], int(sys.argv[2])))
