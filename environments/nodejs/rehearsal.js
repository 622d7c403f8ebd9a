'use strict';
// What the server plays to itself before it takes code: see `rehearse` there.

module.exports = async (context) => ({
  status: 200,
  body: `${context.request.method} ${context.request.path}`,
  headers: { 'x-rehearsal': 'true' },
});
