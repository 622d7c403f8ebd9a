'use strict';
// Runs one JavaScript function behind HTTP, by the contract of Fission's environments.
//
// States: generic (answers /healthz and waits for code) -> specialised (everything else goes to
// the function). What functions may be:
// - `module.exports = async (context) => ({ status, body, headers })`, with context.request and
//   context.response as in Express where they are used most;
// - the same with a callback: `(context, callback) => callback(status, body, headers)`;
// - ES modules with a default export. A body that is a stream or an async iterable is sent as
//   it comes.
//
// Promises: a function that fails answers 500 and the server goes on; SIGTERM lets calls that run
// come to their end.

const fs = require('node:fs');
const http = require('node:http');
const path = require('node:path');
const { pathToFileURL } = require('node:url');
const { pipeline } = require('node:stream');
const { Readable } = require('node:stream');
// Not needed here: functions import them, and find them loaded.
require('node:crypto'); require('node:https'); require('node:zlib'); require('node:util');
require('node:events'); require('node:querystring'); require('node:timers');

const PORT = Number(process.env.PORT || 8888);
const USERFUNC = process.env.USERFUNC || '/userfunc';
const MAX_BODY_BYTES = Number(process.env.MAX_BODY_BYTES || 256 * 1024 * 1024);
let userFunction = null;
let taken = false;
let stopping = false;

class Refused extends Error {
  constructor(status, text) { super(text); this.status = status; }
}

/** The file of a package and the name of its export. */
function locate(where, name) {
  if (!fs.statSync(where).isDirectory()) return [where, name];
  const [file, entry] = (name || '').split('.');
  for (const candidate of [file && path.join(where, file), where]) {
    if (!candidate) continue;
    try { return [require.resolve(candidate), candidate === where ? name : entry]; } catch { /* the next */ }
    for (const ending of ['.mjs', '.cjs']) {
      if (fs.existsSync(candidate + ending)) return [candidate + ending, entry];
    }
  }
  throw new Error(`${where} has neither ${file || 'index'}.js nor a package.json with "main"`);
}

async function load(where, name) {
  // A lone file has no ending, which decides what kind of module it is.
  if (fs.statSync(where).isFile() && !path.extname(where)) {
    const source = fs.readFileSync(where, 'utf8');
    const esm = /^\s*(export\s|import\s[^(])/m.test(source);
    if (!esm) return pick(compile(source, where), name);
    const url = 'data:text/javascript,' + encodeURIComponent(source);
    return pick(await import(url), name);
  }
  const [file, entry] = locate(where, name);
  let module;
  try {
    module = require(file);
  } catch (error) {
    if (error.code !== 'ERR_REQUIRE_ESM' && !(error instanceof SyntaxError && file.endsWith('.mjs'))) throw error;
    module = await import(pathToFileURL(file));
  }
  return pick(module, entry);
}

function compile(source, where) {
  const Module = require('node:module');
  const module = new Module(where, null);
  module.filename = where;
  module.paths = Module._nodeModulePaths(path.dirname(where));
  module._compile(source, where);
  return module.exports;
}

function pick(module, entry) {
  const choices = [entry && module[entry], entry && module.default?.[entry], module, module.default];
  const found = choices.find((choice) => typeof choice === 'function');
  if (!found) throw new Error(`the module exports no function${entry ? ` named ${entry}` : ''}`);
  return found;
}

function readBody(request) {
  return new Promise((resolve, reject) => {
    const pieces = [];
    let size = 0;
    request.on('data', (piece) => {
      size += piece.length;
      if (size > MAX_BODY_BYTES) reject(new Refused(413, `a body may have ${MAX_BODY_BYTES} bytes`));
      else pieces.push(piece);
    });
    request.on('end', () => resolve(pieces.length === 1 ? pieces[0] : Buffer.concat(pieces)));
    request.on('error', reject);
  });
}

/** The body as Express' body parsers give it. */
function parseBody(type, bytes) {
  if (bytes.length === 0) return {};
  if (/^application\/([\w.-]+\+)?json\b/i.test(type)) return JSON.parse(bytes.toString());
  if (/^application\/x-www-form-urlencoded\b/i.test(type)) {
    return Object.fromEntries(new URLSearchParams(bytes.toString()));
  }
  if (/^text\//i.test(type)) return bytes.toString();
  return bytes;
}

function extend(request, response, bytes) {
  const url = new URL(request.url, 'http://localhost');
  request.path = url.pathname;
  request.originalUrl = request.url;
  request.query = Object.fromEntries(url.searchParams);
  request.rawBody = bytes;
  request.get = (name) => request.headers[name.toLowerCase()];
  request.header = request.get;
  request.body = parseBody(request.headers['content-type'] || '', bytes);
  response.status = (code) => { response.statusCode = code; return response; };
  response.set = (name, value) => { response.setHeader(name, value); return response; };
  response.header = response.set;
  response.send = (body) => { send(response, response.statusCode, body); return response; };
  response.json = (body) => { response.setHeader('content-type', 'application/json'); response.end(JSON.stringify(body)); return response; };
}

function send(response, status, body, headers) {
  if (response.writableEnded) return;
  response.statusCode = status || 200;
  for (const [name, value] of Object.entries(headers || {})) response.setHeader(name, value);
  if (body === undefined || body === null) { response.end(); return; }
  if (typeof body?.pipe === 'function' || typeof body?.[Symbol.asyncIterator] === 'function') {
    pipeline(body.pipe ? body : Readable.from(body), response, () => {});
    return;
  }
  const typed = response.hasHeader('content-type');
  if (Buffer.isBuffer(body) || body instanceof Uint8Array) {
    if (!typed) response.setHeader('content-type', 'application/octet-stream');
  } else if (typeof body === 'string') {
    if (!typed) response.setHeader('content-type', 'text/html; charset=utf-8');
    body = Buffer.from(body);
  } else {
    if (!typed) response.setHeader('content-type', 'application/json');
    body = Buffer.from(JSON.stringify(body));
  }
  response.setHeader('content-length', body.length);
  response.end(body);
}

async function call(request, response) {
  const bytes = await readBody(request);
  try { extend(request, response, bytes); } catch (error) {
    throw new Refused(400, `the body is not what its type says: ${error.message}`);
  }
  const context = { request, response };
  if (userFunction.length >= 2) {
    userFunction(context, (status, body, headers) => send(response, status, body, headers));
    return;
  }
  const answer = await userFunction(context);
  if (response.writableEnded || response.headersSent) return;
  if (answer && typeof answer === 'object' && ('status' in answer || 'body' in answer || 'headers' in answer)) {
    send(response, answer.status, answer.body, answer.headers);
  } else {
    send(response, 200, answer);
  }
}

async function specialise(request, response, second) {
  const body = await readBody(request);
  if (taken) throw new Refused(400, 'Not a generic container');
  let where = path.join(USERFUNC, 'user');
  let name = '';
  if (second) {
    try {
      const asked = JSON.parse(body.toString());
      where = asked.filepath; name = asked.functionName || '';
      if (typeof where !== 'string') throw new Error();
    } catch { throw new Refused(400, 'filepath and functionName are needed, as JSON'); }
  }
  taken = true;
  try {
    userFunction = await load(where, name);
  } catch (error) {
    console.error(error);
    throw new Refused(500, String(error?.stack || error));
  }
  response.statusCode = 202;
  response.end();
}

async function answer(request, response) {
  const own = request.url.split('?')[0];
  if (own === '/healthz') { response.end(); return; }
  if (request.method === 'POST' && own === '/specialize') return specialise(request, response, false);
  if (request.method === 'POST' && own === '/v2/specialize') return specialise(request, response, true);
  if (!userFunction) throw new Refused(500, 'Generic container: no requests supported');
  return call(request, response);
}

function handle(request, response) {
  response.on('close', () => { if (stopping) setImmediate(() => server.closeIdleConnections()); });
  if (stopping) response.setHeader('connection', 'close');
  answer(request, response).catch((error) => {
    if (!(error instanceof Refused)) console.error(error);
    if (response.headersSent) { response.destroy(); return; }
    response.setHeader('content-type', 'text/plain; charset=utf-8');
    send(response, error.status || 500, error instanceof Refused ? error.message : String(error));
  });
}

/** A request to a socket that nobody else knows. */
function ask(socketPath, method, target, type, body) {
  return new Promise((resolve, reject) => {
    const headers = { 'content-type': type, 'content-length': Buffer.byteLength(body) };
    const request = http.request({ socketPath, method, path: target, headers, agent: false, timeout: 5000 }, (response) => {
      response.resume().on('end', resolve).on('error', reject);
    });
    request.on('timeout', () => request.destroy(new Error(`no answer to ${method} ${target}`)));
    request.on('error', reject).end(body);
  });
}

/**
 * Takes a function and calls it, so that what that needs is loaded and compiled before anybody
 * waits for it. Nothing of it stays; without it only time is lost.
 */
async function rehearse() {
  const stage = http.createServer(handle);
  const socket = `\0rehearsal-${process.pid}`;
  try {
    await new Promise((resolve, reject) => stage.on('error', reject).listen(socket, resolve));
    const play = JSON.stringify({ filepath: path.join(__dirname, 'rehearsal.js'), functionName: '' });
    await ask(socket, 'POST', '/v2/specialize', 'application/json', play);
    await ask(socket, 'GET', '/', 'text/plain', '');
    await ask(socket, 'POST', '/path?name=value', 'application/json', '{"key":"value"}');
    await import('data:text/javascript,');
  } catch (error) {
    console.error(error);
  } finally {
    stage.close();
    userFunction = null;
    taken = false;
  }
}

const server = http.createServer({ keepAliveTimeout: 75_000, noDelay: true }, handle);
server.requestTimeout = 0;
server.headersTimeout = 0;
server.on('upgrade', (request, socket, head) => {
  // Functions that speak WebSocket take the socket.
  if (typeof userFunction?.upgrade === 'function') userFunction.upgrade(request, socket, head);
  else socket.end('HTTP/1.1 501 Not Implemented\r\nConnection: close\r\n\r\n');
});
// What a function leaves running must not end the calls of others.
process.on('uncaughtException', (error) => console.error(error));
process.on('unhandledRejection', (error) => console.error(error));

function stop() {
  stopping = true;
  server.close(() => process.exit(0));
  server.closeIdleConnections();
}
process.on('SIGTERM', stop);
process.on('SIGINT', stop);
rehearse().then(() => {
  if (!stopping) server.listen({ port: PORT, host: '0.0.0.0', backlog: 1024 });
});
