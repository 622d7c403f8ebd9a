require 'rainbow'

def handler(context)
  name = context.request.params.fetch('name', 'world')
  Rainbow("Hello, #{name}!\n").green
end
