module.exports = async ({ request }) => ({ status: 200, body: request.rawBody });
