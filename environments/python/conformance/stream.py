import time


def main():
    for number in range(5):
        yield f"{number}\n"
        time.sleep(0.2)
