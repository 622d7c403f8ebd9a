const ms = require('ms');

module.exports = async ({ request }) => ({
  status: 200,
  body: `Hello, ${request.query.name || 'world'}! You were here ${ms(30 * 86400e3, { long: true })} ago.\n`,
});
