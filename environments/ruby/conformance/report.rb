def handler(context)
  request = context.request
  {
    method: request.request_method,
    path: request.path,
    a: request.params['a'],
    b: request.params['b'],
    question: request.header('X-Question')
  }
end
