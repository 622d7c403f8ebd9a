def main():
    raise ValueError("this call fails")
