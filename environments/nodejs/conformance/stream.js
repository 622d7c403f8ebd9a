async function* numbers() {
  for (let number = 0; number < 5; number++) {
    yield `${number}\n`;
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
}

module.exports = async () => ({ status: 200, body: numbers() });
