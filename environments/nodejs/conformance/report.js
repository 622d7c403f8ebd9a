module.exports = async ({ request }) => ({
  status: 200,
  body: {
    method: request.method,
    path: request.path,
    a: request.query.a,
    b: request.query.b,
    question: request.get('X-Question'),
  },
});
