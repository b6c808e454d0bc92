"""As people write it first: each marked line is refused, and no other."""

from producer import AsyncJobHandle, AsyncProducer, JobHandle, Producer, as_completed, gather


def submit(producer: Producer) -> None:
    producer.submit("Hi", model="tiny", max_tokens=3)  # refused
    producer.submit("Hi", model="tiny", temperature="hot")  # refused
    producer.submit("Hi", model="tiny", stop=5)  # refused
    producer.submit("Hi", model="tiny", max_new_tokens=2.5)  # refused
    producer.submit("Hi", model="tiny", priority="urgent")  # refused
    producer.submit("Hi", "tiny")  # refused
    producer.submit("Hi")  # refused
    producer.submit(["Hi", "Ho"], model="tiny")  # refused
    producer.submit_many([5], model="tiny")  # refused
    producer.submit_many(["Hi"], model="tiny", n=3)  # refused


async def submit_async(producer: AsyncProducer) -> None:
    await producer.submit("Hi", model="tiny", do_sample=True)  # refused
    await producer.submit_many(["Hi"], model="tiny", top_k="5")  # refused


def read(job: JobHandle) -> str:
    job.result(timeout_s="60")  # refused
    job.result(10, False)  # refused
    return job.result().txt  # refused


def wait(producer: Producer, jobs: list[JobHandle]) -> list[str]:
    Producer(on_interrupt="stop")  # refused
    gather([job.result() for job in jobs])  # refused
    gather(*jobs)  # refused
    print(gather(jobs, return_exceptions=True)[0].text)  # refused
    for job in as_completed(jobs):
        job.txt()  # refused
    return gather(jobs)  # refused


async def wait_async(jobs: list[AsyncJobHandle]) -> None:
    print(gather(jobs)[0])  # refused
    for job in as_completed(jobs):  # refused
        print(job)
    async for each in as_completed(jobs):
        print(each.text().upper())  # refused
